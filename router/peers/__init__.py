"""What routers tell each other: the load that each causes and the prompts that each just sent."""
