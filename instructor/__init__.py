"""What only teachers get: the exercises with their solutions, and the grader."""
