"""Settings of the book (`make book`); the pages come from `build.py`."""

import re
from textwrap import indent

from docutils.nodes import SkipNode
from latex2mathml.converter import convert

project = "One Mask at a Time"
author = "The One Mask at a Time contributors"
copyright = "code MIT, prose and figures CC BY 4.0"

extensions = ["myst_nb", "sphinx.ext.autodoc"]
nb_execution_mode = "off"  # the outputs are the committed ones
nb_ipywidgets_js = {}  # no script from the web
myst_enable_extensions = ["dollarmath", "amsmath"]
myst_heading_anchors = 3

highlight_language = "none"  # drawings in docstrings; all other code names its language
default_role = "py:obj"  # `Mask` in a docstring
autodoc_default_options = {
    "members": True,
    "undoc-members": True,
    "member-order": "bysource",
}
autodoc_typehints = "signature"
python_maximum_signature_line_length = 80
toc_object_entries_show_parents = "hide"
suppress_warnings = ["ref.python"]  # `Report` has two pages, and either is right

html_theme = "sphinx_book_theme"
html_title = project
html_static_path = ["static"]
html_css_files = ["book.css"]
html_copy_source = False
html_use_index = html_domain_indices = False  # the search finds a name
html_context = {"default_mode": "auto"}
html_theme_options = {
    "use_download_button": False,
    "navbar_persistent": [],
    "show_navbar_depth": 1,
    "max_navbar_depth": 2,
    "pygments_light_style": "a11y-high-contrast-light",
    "pygments_dark_style": "a11y-high-contrast-dark",
}
html_math_renderer = "mathml"  # what browsers read themselves: no script, no font, no network


def math(block):
    def visit(self, node):
        tags = ("<div class='math'>", "</div>") if block else ("", "")
        display = "block" if block else "inline"
        self.body.append(tags[0] + convert(node.astext(), display=display) + tags[1])
        raise SkipNode

    return visit


def drawings(app, what, name, thing, options, lines):
    """Blocks of a docstring that are set in columns, a drawing or a table, stay as they are set."""
    if what == "data" and thing.__doc__ == type(thing).__doc__:
        lines[:] = []  # a value has none of its own
    blocks = "\n".join(lines).split("\n\n")
    for number, block in enumerate(blocks):
        announced = number > 0 and blocks[number - 1].rstrip().endswith("::")
        columns = re.search(r"\S {3,}\S|\S  [01#.x]", block)
        if not block.startswith((" ", "\n", ">>>")) and (announced or columns):
            blocks[number] = ("" if announced else "::\n\n") + indent(block, "    ")
    lines[:] = "\n\n".join(blocks).split("\n")


def setup(app):
    app.connect("autodoc-process-docstring", drawings)
    app.add_html_math_renderer("mathml", (math(False), None), (math(True), None))
