"""What `import pipeline` offers, and what files say of their own form."""

from __future__ import annotations

import inspect
from functools import cached_property

from surface import DOCUMENTED, FORMATS, pipeline


def members_of(kind: type) -> dict[str, str]:
    """Public members of a class of ours: signatures of methods, values of constants, and what else there is."""
    own = [base for base in reversed(kind.__mro__) if base.__module__.startswith("pipeline")]
    found = {}
    for name, member in [item for base in own for item in vars(base).items() if not item[0].startswith("_")]:
        if inspect.isfunction(member):
            found[name] = str(inspect.signature(member))
        elif isinstance(member, property | cached_property):
            found[name] = "attribute"
        elif not hasattr(member, "__get__"):  # a descriptor is scikit-learn's
            found[name] = repr(member)
    return found


def test_the_package_offers_the_same_names(golden):
    golden.check_json("python_names.json", {"all": pipeline.__all__, "dir": sorted(DOCUMENTED)})
    assert set(pipeline.__all__) <= set(dir(pipeline))


def test_what_is_documented_keeps_its_signatures(golden):
    signatures = {}
    for name, thing in DOCUMENTED.items():
        signatures[name] = {"signature": str(inspect.signature(thing))}
        if inspect.isclass(thing):
            signatures[name]["members"] = members_of(thing)
    golden.check_json("python_signatures.json", signatures)


def test_formats_and_versions_are_the_same(golden):
    golden.check_json("formats.json", FORMATS)
