"""A module of one documented function and one class, small enough to work out by hand."""

SOURCE = '''
def price(n, *, each: int = 2) -> int:
    """Total price of n things.

    >>> price(3)
    6
    """
    if n < 1:
        return 0
    return n * each


class Till:
    def add(self, amount):
        self.total += amount
        return self.total
'''
