import json

import pytest

from camseg.base.errors import InputError
from camseg.base.extras import require


def test_a_library_that_is_there_is_imported():
    assert require("json.decoder", "nifti", "reading NIfTI") is json.decoder


def test_a_missing_library_is_named_with_its_use_and_its_extra():
    message = r"reading NIfTI needs nosuchlib \(No module named 'nosuchlib'\); pip install 'camseg\[nifti\]'"
    with pytest.raises(InputError, match=message):
        require("nosuchlib.part", "nifti", "reading NIfTI")
