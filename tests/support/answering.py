"""A verb that answers a `Helper`: half of an even number."""

from common.errors import UserError
from common.runs.helper import answer_lines


def half(number: int) -> int:
    if number % 2:
        raise UserError(f"{number} is odd")
    return number // 2


if __name__ == "__main__":
    answer_lines({"halves": "even numbers"}, half)
