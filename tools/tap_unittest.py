"""Runs the unit tests of a Python file, or those that are named (CLASS.TEST), and reports TAP."""
import sys
import unittest


class TapResult(unittest.TestResult):
    def __init__(self):
        super().__init__()
        self.count = 0

    def point(self, word, test, note=''):
        self.count += 1
        print(f'{word} {self.count} - {test.id().split(".", 1)[1]}{note}', flush=True)

    def addSuccess(self, test):
        self.point('ok', test)

    def addSkip(self, test, reason):
        super().addSkip(test, reason)
        self.point('ok', test, f' # SKIP {reason}')

    def fail_with(self, test, error):
        self.point('not ok', test)
        for line in self._exc_info_to_string(error, test).splitlines():
            print('#', line)

    def addFailure(self, test, err):
        super().addFailure(test, err)
        self.fail_with(test, err)

    def addError(self, test, err):
        super().addError(test, err)
        self.fail_with(test, err)


def main():
    loader, module = unittest.defaultTestLoader, sys.modules['__main__']
    named = sys.argv[1:]
    suite = (loader.loadTestsFromNames(named, module) if named else
             loader.loadTestsFromModule(module))
    print(f'1..{suite.countTestCases()}')
    result = TapResult()
    suite.run(result)
    sys.exit(0 if result.wasSuccessful() else 1)
