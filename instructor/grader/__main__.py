"""`python -m instructor.grader SUBMISSIONS …`: see `batch`."""

import sys

from instructor.grader.batch import main

if __name__ == "__main__":
    sys.exit(main())
