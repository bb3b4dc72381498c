import shutil
import tempfile

import pytest

import terrace


@pytest.fixture
def directory():
    path = tempfile.mkdtemp(prefix="terrace-test-")
    yield path
    shutil.rmtree(path)


@pytest.fixture(params=["through", "behind"])
def cache(request, directory):
    with terrace.Cache(directory, write_behind=request.param == "behind") as made:
        yield made
