"""Bodies that are no JSON, that two readers would read differently, or that fit no schema of ours."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

NO_VALUES: dict[str, Sequence[bytes]] = {
    "number": (
        b"-", b"+", b"-01", b"00", b"012", b"-.1", b"1.", b"-1.", b".", b"0.e1", b"2.e3", b"1e", b"1e+", b"1E-", b"0e+",
        b"1eE2", b"1.5e", b"++1", b"--1", b"- 1", b"1 000", b"1_000", b"1-1", b"1a", b"0xa", b"1.1.1", b"Inf", b"-NaN",
        b"nan", b"infinity", b"-Infinity", b"-1e400", b"1e99999999999", b"\xef\xbc\x91", b"9" * 400 + b".0e10",
    ),
    "string": (
        b'"', b'"a', b'"a""', b'"\\', b'"\\"', b'"\\a"', b'"\\\'"', b'"\\U0041"', b'"\\u"', b'"\\u00A"', b'"\\u00G0"',
        b'"\\u{41}"', b'"\\u 041"', b'"\\u+041"', b'"\\uD834\\uD"', b'"\\uD800\\"', b'"\t"', b'"\n"', b'"\x1f"', b"a",
        b"\\u0041", b"'a'", b"`a`", "\u201ca\u201d".encode(), b'"\xe0\xff"', b'"\xf4\xbf\xbf\xbf"', b'"\xc3"',
        b'"\xfc\x80\x80\x80\x80\x80"',
    ),
    "surrogate": (
        b'"\\uD800"', b'"\\uDC00"', b'"\\uD800\\n"', b'"\\uDd1ea"', b'"\\uD888\\u1234"', b'"\\uD800\\uD800\\uDC00"',
        b'["\\ud800abc"]',
        b'{"\\ud800": 1}',
    ),
    "array": (
        b"[", b"]", b"[1", b"[1,", b"[1,]", b"[,1]", b"[,]", b"[1,,2]", b"[1 2]", b"[1:2]", b"[1;2]", b"[1]]", b"[1}",
        b"[a]",
        b"[-]", b"[*]", b"[\x0c]", b"[\xc2\xa0]", b"[\xe2\x81\xa0]", b"[\xff]", b"(1)", b'["a"', b'["a",\n4,\n1,',
        b"[1]x", b"[][]",
    ),
    "object": (
        b"{", b'{"a"', b'{"a":', b'{"a":1', b'{"a":1,', b'{"a":1,}', b'{,"a":1}', b'{"a" 1}', b'{"a"::1}', b'{"a",1}',
        b'{"a":1 "b":2}',
        b'{"a":1,,"b":2}', b"{a:1}", b"{1:1}", b"{null:1}", b"{'a':1}", b'{"a":1}}', b'{"a":1}/**/', b'{"a":1}//',
        b'{"a":1}#',
        b'{"a":/* */1}', b'{"a":1,"a":1}', b'{"a":1,"a":2}', b'[{"a":1,"\\u0061":2}]', b'{"":1,"":2}',
    ),
    "literal": (b"nul", b"tru", b"fals", b"True", b"None", b"NULL", b"truee", b"undefined", b"<null>", b"&", b"\xe5",
    b"", b" "),
}  # fmt: skip
"""What is no JSON value, by the families of JSONTestSuite; and what two readers would not read alike."""
VALUES: Mapping[str, Any] = {
    "-0": 0, "-0.0": -0.0, "0e1": 0.0, "0e+1": 0.0, "1E22": 1e22, "1E-2": 0.01, "1E+2": 100.0, "20e1": 200.0,
    "123.456e78": 123.456e78, "1e-400": 0.0, "-1e-400": -0.0, "1.7976931348623157e308": 1.7976931348623157e308,
    "-9223372036854775808": -(2**63), "0.1" + "0" * 400 + "1": 0.1, "true": True, "false": False, "null": None,
    '""': "", '"\\u0060\\u012a\\u12AB"': "\u0060\u012a\u12ab", '"\\uD801\\udc37"': "\U00010437",
    '"\\ud83d\\ude39\\ud83d\\udc8d"': "\U0001f639\U0001f48d",
    '"\\"\\\\\\/\\n\\r\\t"': '"\\/\n\r\t', '"a/*b*/c/*d//e"': "a/*b*/c/*d//e", '"\\\\u0000"': "\\u0000",
    '"\uffff\U0010ffff"': "\uffff\U0010ffff",
    '"\\uFFFE\\uFDD0"': "\ufffe\ufdd0", '"\u2028\u2029"': "\u2028\u2029", '"\u200b\u2064"': "\u200b\u2064",
    '"\ufeff"': "\ufeff",
    "[]": [], "[[] ]": [[]], "[1\n]": [1], " [1] ": [1], "[1,null,null,2]": [1, None, None, 2], "\t{\n}\r": {},
    '{"a":"b","b":"a"}': {"a": "b", "b": "a"}, '{"a":[{"b":{}},{"b":{}}]}': {"a": [{"b": {}}, {"b": {}}]},
    '{"\\u0061":1}': {"a": 1},
}  # fmt: skip
"""What is JSON, and what it says."""


def spliced(example: dict[str, Any], text: str) -> bytes:
    """The example with one more member, as it stands."""
    return json.dumps(example)[:-1].encode() + (b", " if example else b"") + text.encode() + b"}"


def malformed(example: dict[str, Any]) -> dict[str, bytes]:
    """Bodies that are no JSON, or that two readers would read differently."""
    good = json.dumps(example).encode()
    name = next(iter(example), "x")
    repeated = f'"{name}": {json.dumps(example.get(name))}'
    escaped = f"\\u{ord(name[0]):04x}{name[1:]}"
    disguised = '"a": 1, "\\u0061": 2'
    return {
        "cut off": good[:-1],
        "trailing garbage": good + b"x",
        "two values": good + good,
        "trailing comma": good[:-1] + b",}",
        "blank": b"   ",
        "BOM": b"\xef\xbb\xbf" + good,
        "UTF-16": good.decode().encode("utf-16"),
        "invalid UTF-8": spliced(example, '"x": "').replace(b'"x": "', b'"x": "\xff"'),
        "overlong UTF-8": spliced(example, '"x": "').replace(b'"x": "', b'"x": "\xc0\xaf"'),
        "surrogate in UTF-8": spliced(example, '"x": "').replace(b'"x": "', b'"x": "\xed\xa0\x80"'),
        "lone surrogate": spliced(example, '"x": "\\ud800"'),
        "swapped surrogates": spliced(example, '"x": "\\udc00\\ud800"'),
        "NaN": spliced(example, '"x": NaN'),
        "Infinity": spliced(example, '"x": Infinity'),
        "-Infinity": spliced(example, '"x": -Infinity'),
        "1e400": spliced(example, '"x": 1e400'),
        "an integer of 5,000 digits": spliced(example, '"x": ' + "9" * 5_000),
        "a repeated name": spliced(example, f"{repeated}, {repeated}" if not example else repeated),
        "a name repeated in disguise": spliced(example, repeated.replace(name, escaped, 1) if example else disguised),
        "a deep array": spliced(example, '"x": ' + "[" * 100_000),
        "a deep array that is whole": spliced(example, '"x": ' + "[" * 5_000 + "]" * 5_000),
        "a deep object": spliced(example, '"x": ' + '{"a":' * 5_000 + "1" + "}" * 5_000),
        "a raw control character": spliced(example, '"x": "\x01"'),
        "a raw NUL": spliced(example, '"x": "\x00"'),
        "a NUL outside": b"\x00" + good,
        "single quotes": good.replace(b'"', b"'") if example else b"{'a': 1}",
        "a comment": b"/* */" + good,
        "a number with a plus": spliced(example, '"x": +1'),
        "a leading zero": spliced(example, '"x": 01'),
        "a bare point": spliced(example, '"x": .5'),
        "hexadecimal": spliced(example, '"x": 0x1'),
        "an odd escape": spliced(example, '"x": "\\x41"'),
        "XML": b"<a/>",
        "binary": bytes(range(256)),
        **{
            f"{family} {value[:20]!r}": spliced(example, '"x": ')[:-1] + value + b"}"
            for family, values in NO_VALUES.items()
            for value in values
        },
    }


def unfitting(example: dict[str, Any]) -> dict[str, bytes]:
    """Bodies that are JSON and fit no schema of ours."""
    bodies = {
        "unknown field": spliced(example, '"nobody_knows": 1'),
        "a NUL": spliced(example, '"nobody_knows": "\\u0000"'),
        "a NUL in a name": spliced(example, '"\\u0000": 1'),
        "array": b"[]",
        "string": b'"x"',
        "number": b"1",
        "null": b"null",
        "true": b"true",
        "an empty name": spliced(example, '"": 1'),
    }
    for name, value in example.items():
        wrong: Any = {"a": [1]} if not isinstance(value, dict) else 7
        bodies[f"wrong type of {name}"] = json.dumps({**example, name: wrong}).encode()
    return bodies
