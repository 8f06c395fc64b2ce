"""Whether load and hot prefixes spread as they should: scenarios in virtual time."""
