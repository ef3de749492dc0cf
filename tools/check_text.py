"""C source as text without comments and strings, and the list of findings. Part of check.py."""
import re

TOKEN = re.compile(
    r'//(?:\\\n|[^\n])*'                       # comment to the end of the line
    r'|/\*.*?(?:\*/|\Z)'                       # comment
    r'|\bR"(?P<mark>[^()\\\s]*)\(.*?\)(?P=mark)"'  # raw string of C++
    r'|"(?:\\.|[^"\\\n])*"'
    r"|(?<![0-9a-fA-F])'(?:\\.|[^'\\\n])*'",   # not the separator of 1'000 in C++
    re.S)
INCLUDE_BEFORE = re.compile(r'^[ \t]*#[ \t]*include[ \t]*$')


def blank(text, keep_includes=False):
    """The text with comments and the inside of strings as spaces; lines keep their numbers."""
    def replace(match):
        token = match.group()
        if keep_includes and token.startswith('"'):
            start = text.rfind('\n', 0, match.start()) + 1
            if INCLUDE_BEFORE.match(text[start:match.start()]):
                return token
        spaces = re.sub(r'[^\n]', ' ', token)
        if token.startswith('/'):
            return spaces
        return token[0] + spaces[1:-1] + token[-1]
    return TOKEN.sub(replace, text)


def line_of(text, position):
    return text.count('\n', 0, position) + 1


class Report:
    """Findings in the order of the tree."""

    def __init__(self):
        self.errors = []
        self.warnings = []

    def error(self, path, line, message):
        self.errors.append((path, line, message))

    def warn(self, path, line, message):
        self.warnings.append((path, line, message))

    def print(self):
        for path, line, message in sorted(self.warnings):
            print(f'{path}:{line}: warning: {message}')
        for path, line, message in sorted(self.errors):
            print(f'{path}:{line}: {message}')
        if not self.errors:
            print('check: the tree is in order')
