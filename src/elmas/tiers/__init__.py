"""Where bytes live: the mapped host region. Knows no vLLM."""
