"""A judgement as JUnit XML, which every CI system shows: one test case for each metric."""

from xml.etree import ElementTree

from pipelines.gate.verdicts import Judgement, Verdict


def junit(judgement: Judgement) -> str:
    """The whole file."""
    return written(suite_of(judgement))


def suite_of(judgement: Judgement) -> ElementTree.Element:
    """Worse is a failure, what must be compared and cannot be an error, what is not counted skipped."""
    cases = [(each, _outcome(each)) for each in judgement.verdicts]
    if judgement.word == "not comparable" and not any(outcome == "error" for _, outcome in cases):
        cases.append((Verdict("any metric", judgement.word, "nothing of the runs could be compared"), "error"))
    counts = {tag: str(sum(outcome == tag for _, outcome in cases)) for tag in ("failure", "error", "skipped")}
    suite = ElementTree.Element(
        "testsuite",
        name=f"trainworks gate against {judgement.baseline}",
        tests=str(len(cases)),
        failures=counts["failure"],
        errors=counts["error"],
        skipped=counts["skipped"],
    )
    for verdict, outcome in cases:
        case = ElementTree.SubElement(suite, "testcase", classname=f"gate.{verdict.kind}", name=verdict.name)
        if outcome:
            ElementTree.SubElement(case, outcome, message=f"{verdict.word}: {verdict.reason}")
        else:
            ElementTree.SubElement(case, "system-out").text = f"{verdict.word}: {verdict.reason}"
    return suite


def written(root: ElementTree.Element) -> str:
    """An element as the text of a file."""
    ElementTree.indent(root)
    return ElementTree.tostring(root, encoding="unicode", xml_declaration=True) + "\n"


def _outcome(verdict: Verdict) -> str | None:
    if not verdict.counts:
        return "skipped"
    return {"worse": "failure", "not comparable": "error"}.get(verdict.word)
