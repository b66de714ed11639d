"""From texts to objects: which classes a configuration may name, how it is parsed, and what is said of a mistake."""
