"""How a person, or a secret, makes a login.

`flow` says what every way has in common: `begin()` says what to show, `finish()` waits and brings the tokens, so
that a terminal, a notebook and an application share them and differ only in how they show a `Prompt`.  `browser`
and `device` are the ways, `choose` says which one fits, `signin` goes it from beginning to end.
"""
