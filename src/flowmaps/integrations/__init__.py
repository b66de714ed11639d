"""Where other programs meet trained text models: a server of completions, and the harness of language benchmarks."""
