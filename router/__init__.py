"""The router: accepts OpenAI requests and sends each to the worker that will answer it soonest."""
