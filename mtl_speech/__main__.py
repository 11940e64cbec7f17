"""`python -m mtl_speech` is `mtl-speech`."""

from mtl_speech.commands.cli import main

if __name__ == "__main__":
    main()
