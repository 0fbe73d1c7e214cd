"""The self-checks, one module an exercise. Derived: their sources are the exercises' own."""
