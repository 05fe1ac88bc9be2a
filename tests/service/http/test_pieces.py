"""What came is taken out as it came, in pieces that are small where much is in them."""

from service.http.pieces import FIRST_PIECE_BYTES, MAX_PIECE_BYTES, Pieces


def test_pieces_grow_while_they_hold_little_and_add_up_to_what_came() -> None:
    pieces, came = Pieces(), bytes(range(256)) * 1200
    pieces.add(came[:100_000])
    pieces.add(came[100_000:])
    taken = []
    while pieces:
        taken.append(pieces.next())
        pieces.grow(is_dense=False)
    assert b"".join(taken) == came
    sizes = [len(piece) for piece in taken]
    assert sizes[:5] == [FIRST_PIECE_BYTES << step for step in range(5)]
    assert max(sizes) == MAX_PIECE_BYTES


def test_a_piece_that_held_much_makes_the_next_one_small_and_more_may_come_between() -> None:
    pieces = Pieces()
    pieces.add(b"a" * 20_000)
    assert pieces.next() == b"a" * FIRST_PIECE_BYTES
    pieces.grow(is_dense=False)
    assert len(pieces.next()) == 2 * FIRST_PIECE_BYTES
    pieces.add(b"b")
    pieces.grow(is_dense=True)
    assert len(pieces.next()) == FIRST_PIECE_BYTES
    assert (pieces.next(), bool(pieces)) == (b"a" * (20_000 - 4 * FIRST_PIECE_BYTES) + b"b", False)
    assert pieces.next() == b""
