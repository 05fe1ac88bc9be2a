from importlib import import_module

from optimizer.passes.rewrite_pass import PASSES


def test_every_pass_of_the_table_is_there() -> None:
    for target in PASSES.values():
        module, _, function = target.partition(":")
        assert callable(getattr(import_module(module), function))
