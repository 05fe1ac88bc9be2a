from optimizer.report.markup import Html, element, html_table, joined, number_cell, section


def test_text_is_escaped_and_markup_is_not() -> None:
    assert element("p", "a < b & c", element("b", "x")) == "<p>a &lt; b &amp; c<b>x</b></p>"
    assert joined(["<", Html("<i></i>")]) == "&lt;<i></i>"


def test_attributes_are_escaped_renamed_and_left_out() -> None:
    made = element("rect", class_="p", data_value='"1"', viewBox="0 0 1 1", title=None, x=1.005, y=2.0, r=3)
    assert made == '<rect class="p" data-value="&quot;1&quot;" viewBox="0 0 1 1" x="1" y="2" r="3"></rect>'


def test_a_table_sorts_by_values_and_its_headings_stand_over_their_figures() -> None:
    table = html_table(("name", "ms"), [("a", number_cell("1,000", 1000.0)), ("b", number_cell("–"))], "sortable")
    assert '<th scope="col">name</th><th scope="col" class="number">ms</th>' in table
    assert '<td>a</td><td class="number" data-value="1000">1,000</td>' in table
    assert '<table class="sortable">' in table


def test_a_table_without_rows_has_its_headings() -> None:
    assert html_table(("a", "b"), []).count("<th ") == 2


def test_a_section_can_be_linked_to() -> None:
    assert section("here", "Title", "text") == '<section id="here"><h2>Title</h2>text</section>'
