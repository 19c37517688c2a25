"""The documentation as a site: pages that are generated from the code, and links that work on GitHub and here."""
