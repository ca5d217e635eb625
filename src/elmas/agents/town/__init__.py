"""A small town of generative agents after Park et al. (UIST 2023): plans, memories, places, events, five decisions."""
