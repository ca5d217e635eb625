"""Programs for people: a chat and completions in the terminal, and prompts that show what a server's cache does."""
