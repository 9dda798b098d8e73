"""Where logins live.  `base` says what a store promises; each other module is one that keeps the promise."""
