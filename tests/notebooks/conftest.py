"""One made-up chapter, executed once per test run and copied for each test that breaks it."""

import pytest
import sample


@pytest.fixture(scope="session")
def sample_book(tmp_path_factory):
    root = tmp_path_factory.mktemp("book")
    sample.make(root)
    return root


@pytest.fixture
def chapter(sample_book, tmp_path):
    """The path of a fresh copy of the chapter, in a fresh copy of the book."""
    return sample.copy(sample_book, tmp_path / "copy")
