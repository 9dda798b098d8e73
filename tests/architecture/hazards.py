"""What goes wrong with shared logins in the wild, numbered; the mark `hazard(*numbers)` says which test guards it.

`test_hazards` sees to it that every one has a test.
"""

from __future__ import annotations

HAZARDS: dict[int, str] = {
    1: "the provider rotates, and its answer is lost on the way",
    2: "an interrupt, a signal or a restart comes between the answer and its saving",
    3: "the answer cannot be saved: full, read-only or broken disk",
    4: "a library repeats or redirects the token request behind our back",
    5: "the lock is held for the writing only, and not for reading, deciding and sending too",
    6: "whoever gets the lock does not read again, and spends what another has spent",
    7: "the refresh token is picked up before the lock, or before a pause",
    8: "the holder of the lock hangs in the network, and everybody hangs with it",
    9: "without a lock or a store it is spent all the same",
    10: "a lock is taken from its holder because it looks old",
    11: "another program writes the login without any lock",
    12: "the holder is suspended, and goes on after its time",
    13: "a fork copies locks, threads and connections into the child",
    14: "a lock object that is shared lets all threads in",
    15: "a pickle carries tokens along, or forgets who is signed in",
    16: "the lock of one machine does not keep out another one, on a folder that they share",
    17: "where the system has no lock a weaker one is taken in silence",
    18: "somebody else on the machine can read, replace or prepare the files",
    19: "a record is cut short or garbled, and taken for a log-out",
    20: "a rename breaks links; a folder that is purged loses logins",
    21: "a copy or an older state of the record comes back to life",
    22: "a 401 that no renewal mends is answered by renewals without end",
    23: "a renewal ends the access tokens that siblings still use",
    24: "a body that was read is sent again, empty",
    25: "a redirect or a .netrc gives the token away or replaces it",
    26: "the loser of a race ends the login of its winner",
    27: "a refusal is told by the HTTP status alone, and a broken gateway ends a login",
    28: "a dead refresh token is sent again and again",
    29: "an early renewal is refused while the access token still lives",
    30: "a log-out comes while a renewal is under way",
    31: "one person gets many prompts at once, and they stay when one was answered",
    32: "after an outage everybody comes at once, and again",
    33: "clocks differ, jump and stand still",
    34: "a token lives shorter than the window, or does not say how long",
    35: "an answer lacks members, has odd ones, or makes no sense",
    36: "logins of different people, clients, resources or scopes share one record",
    37: "the key of bound tokens is lost or not shared, or a server's nonce is taken for a refusal",
    38: "a lease of Redis or SQL ends while its holder goes on, or a pooler hands on its lock",
    39: "a secret shows in a log, a repr, a traceback, a pickle or a saved notebook",
}
