"""Filter, predict, pick: which worker gets a request, as pure functions of what is known."""
