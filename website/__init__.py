"""
The documents as a site and the write-up as a PDF: `python -m website` and `python -m website.pdf`.

The Markdown of the repository is read as it is, by CommonMark, as the viewers of repositories do (commonmark.py). What
is a page, and where a link leads, says documents.py, for both. MkDocs with the theme Material makes the site; what it
has to be told about this repository is in plugin.py, the rest in mkdocs.yml. WeasyPrint makes the PDF.
"""
