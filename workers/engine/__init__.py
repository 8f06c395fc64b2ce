"""The engines a worker can host; each module alone knows its engine's library."""
