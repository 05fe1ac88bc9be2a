from importlib import import_module

from optimizer.passes.rewrite_pass import PASSES, Declined


def test_every_pass_of_the_table_is_there() -> None:
    for target in PASSES.values():
        module, _, function = target.partition(":")
        assert callable(getattr(import_module(module), function))


def test_declined_place_reads_as_a_sentence() -> None:
    assert str(Declined("Conv 'c'", "it is shared")) == "Conv 'c': it is shared"
