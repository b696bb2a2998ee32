"""Episodes: the agent, its tools, the sandbox, and many of them at once."""
