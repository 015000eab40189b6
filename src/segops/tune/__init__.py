"""Semi-automatic choices: learning rate, batch size, and a search over declared ranges."""
