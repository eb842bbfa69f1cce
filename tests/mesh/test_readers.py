"""Four kinds of file, one hierarchy."""

import gzip
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from xml.sax.saxutils import escape

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kailin_ray.mesh import MeshHierarchy
from kailin_ray.mesh.readers import Descriptor, descriptor, read_descriptors
from tests.conftest import MESH, TOY

pytestmark = pytest.mark.usefixtures("own_cache")
ROWS = [descriptor(ui, name, trees, [f"{name}, Other", f"The <{name}> & Co"]) for ui, name, trees in TOY]
DATA = Path(__file__).parent / "data"
HEADER = "descriptor_ui\tname\ttree_numbers\tentry_terms\n"


def xml(rows: Sequence[Descriptor]) -> str:
    """As NLM writes it: concepts with terms, white space, tree numbers in no order."""
    records = ""
    for row in rows:
        trees = "".join(f"<TreeNumber>{tree}</TreeNumber>\n" for tree in reversed(row.tree_numbers))
        terms = "".join(f"<Term><String>{escape(term)}</String></Term>" for term in (row.name, *row.entry_terms))
        records += (
            f"<DescriptorRecord DescriptorClass = '1'><DescriptorUI>{row.ui}</DescriptorUI>\n<DescriptorName>\n"
            f"<String>{escape(row.name)}</String></DescriptorName>"
            f"<AllowableQualifiersList><AllowableQualifier><QualifierReferredTo><QualifierUI>Q1</QualifierUI>"
            f"<QualifierName><String>surgery</String></QualifierName></QualifierReferredTo></AllowableQualifier>"
            f"</AllowableQualifiersList>"
            + (f"<TreeNumberList>{trees}</TreeNumberList>" if trees else "")
            + f"<ConceptList><Concept><TermList>{terms}</TermList></Concept></ConceptList></DescriptorRecord>\n"
        )
    return f'<?xml version="1.0"?>\n<DescriptorRecordSet LanguageCode = "eng">\n{records}</DescriptorRecordSet>\n'


def obo(rows: Sequence[Descriptor]) -> str:
    terms = ""
    for row in rows:
        terms += f"\n[Term]\nid: mesh:{row.ui}\nname: {row.name}\n"
        terms += "".join(f'synonym: "{term}" EXACT []\n' for term in row.entry_terms)
        # Two ways that are in use.
        for number, tree in enumerate(row.tree_numbers):
            way = f'property_value: tree_number "{tree}" xsd:string' if number % 2 else f"xref: MESH_TREE_NUMBER:{tree}"
            terms += f"{way}\n"
    return f"format-version: 1.2\nontology: mesh\n{terms}\n[Term]\nid: mesh:C000001\nname: a supplementary concept\n"


def mtrees(rows: Sequence[Descriptor]) -> str:
    lines = [(tree, row.name) for row in rows for tree in row.tree_numbers]
    return "".join(f"{name};{tree}\n" for tree, name in sorted(lines))


def table(rows: Sequence[Descriptor]) -> str:
    lines = (f"{d.ui}\t{d.name}\t{'|'.join(d.tree_numbers)}\t{'|'.join(d.entry_terms)}\n" for d in rows)
    return HEADER + "".join(lines)


def bare_table(rows: Sequence[Descriptor]) -> str:
    lines = (f"{d.ui}\t{d.name}\t{'|'.join(d.entry_terms)}\t{'|'.join(d.tree_numbers)}\n" for d in rows)
    return "".join(lines)


@pytest.mark.parametrize("write", [xml, obo, table, bare_table])
@pytest.mark.parametrize("zipped", [False, True])
def test_every_kind_of_file_gives_the_same_hierarchy(
    tmp_path: Path, write: Callable[[Sequence[Descriptor]], str], zipped: bool
) -> None:
    path = tmp_path / "some file"  # the name says nothing
    content = write(ROWS).encode()
    path.write_bytes(gzip.compress(content) if zipped else content)
    mesh = MeshHierarchy.load(path)
    assert mesh.equals(MeshHierarchy.from_descriptors(ROWS))
    assert mesh.names.to_pylist() == [row.name for row in ROWS]
    assert mesh.entry_terms.to_pylist()[0] == ["Neoplasms, Other", "The <Neoplasms> & Co"]


@pytest.mark.parametrize("zipped", [False, True])
def test_a_tree_list_gives_the_same_with_names_for_uis(tmp_path: Path, zipped: bool) -> None:
    path = tmp_path / "mtrees.bin"
    path.write_bytes(gzip.compress(mtrees(ROWS).encode()) if zipped else mtrees(ROWS).encode())
    named = [Descriptor(row.name, row.name, row.tree_numbers) for row in ROWS if row.tree_numbers]
    mesh = MeshHierarchy.load(path)
    assert mesh.equals(MeshHierarchy.from_descriptors(named))
    assert mesh.similarity("Lung Neoplasms", "Skin Neoplasms") == pytest.approx(np.log(10 / 3) / np.log(10))


def test_the_same_for_all_of_mesh(tmp_path: Path) -> None:
    rows = [row for row in read_descriptors(MESH) if row.tree_numbers]
    expected = MeshHierarchy.from_descriptors(rows)
    for name, write in (("xml", xml), ("obo", obo)):
        (tmp_path / name).write_text(write(rows))
        assert MeshHierarchy.load(tmp_path / name).equals(expected), name
    (tmp_path / "mtrees").write_text(mtrees(rows))
    listed = MeshHierarchy.load(tmp_path / "mtrees")
    # The same tree over other UIs.
    assert (listed.tree_numbers == expected.tree_numbers).all()
    names = np.array(expected.names.to_pylist())
    assert (listed.uis[listed.tree_holder] == np.char.encode(names[expected.tree_holder], "utf-8")).all()
    one, two = (mesh.similarity(*uis) for mesh, uis in (
        (expected, ("D003924", "D003922")), (listed, ("Diabetes Mellitus, Type 2", "Diabetes Mellitus, Type 1")),
    ))  # fmt: skip
    assert one == pytest.approx(two)


BOMB = '<!DOCTYPE x [<!ENTITY a "aaaaaaaaaa">' + "".join(
    f'<!ENTITY {chr(98 + i)} "{f"&{chr(97 + i)};" * 10}">' for i in range(9)
)


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (b"", "the file is empty"),
        (gzip.compress(b"\n", mtime=0), "the file is empty"),
        (b"hello\n", "not MeSH: neither"),
        (b"<PubmedArticleSet></PubmedArticleSet>", "its root element is <PubmedArticleSet>"),
        (xml(ROWS).encode()[:-200], "damaged"),
        (xml(ROWS).encode().replace(b"<DescriptorUI>D11</DescriptorUI>", b""), "a descriptor without UI or name"),
        (gzip.compress(xml(ROWS).encode(), mtime=0)[:-40], "damaged"),
        (b"\x1f\x8bnot gzip at all", "damaged"),
        (b"<DescriptorRecordSet></DescriptorRecordSet>", "no descriptors"),
        (b"format-version: 1.2\n\n[Term]\nid: mesh:D1\nname: One\nis_a: mesh:D2\n", "no tree numbers"),
        (b"Neoplasms;C04\nno semicolon\n", "line 2: expected name;tree number"),
        (b"just\tone column\n", "line 1: expected the columns"),
        (b"D1\tOne\t\tC\xff1\n", "damaged"),
        (b"D1\tOne\t\tC1.1\n", "orphan tree number, its parent missing: C1.1"),
        (f"{BOMB}]>\n<DescriptorRecordSet><DescriptorRecord><DescriptorUI>D1</DescriptorUI><DescriptorName><String>"
         "&j;</String></DescriptorName></DescriptorRecord></DescriptorRecordSet>".encode(), "damaged|an entity"),
        (b'<!DOCTYPE x [<!ENTITY e SYSTEM "file:///etc/passwd">]><DescriptorRecordSet><DescriptorRecord><DescriptorUI>'
         b"D1</DescriptorUI><DescriptorName><String>&e;</String></DescriptorName></DescriptorRecord>"
         b"</DescriptorRecordSet>", "an entity that the file defines"),
        (b"D1\tOne\t" + b"x" * 200_000 + b"\tC1\n", "damaged: field larger than field limit"),
        (obo([*ROWS, ROWS[1]]).encode(), "UI given twice: mesh:D11"),
        (obo([*ROWS[:2], Descriptor("D7", "Odd", ("C1.1x",))]).encode(), "malformed tree number: C1.1x"),
    ],
)  # fmt: skip
def test_what_is_no_mesh_is_refused_by_name(tmp_path: Path, own_cache: Path, content: bytes, fault: str) -> None:
    path = tmp_path / "mesh.file"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=fault) as refused:
        MeshHierarchy.load(path)
    assert "mesh.file" in str(refused.value)
    assert "\n" not in str(refused.value)
    assert list(tmp_path.iterdir()) == [path]
    assert list(own_cache.iterdir()) == []  # nothing is kept of it


def test_blank_lines_of_a_table_say_nothing(tmp_path: Path) -> None:
    path = tmp_path / "mesh.tsv"
    path.write_text(f"{table(ROWS)}\n\t\n")
    assert MeshHierarchy.load(path).equals(MeshHierarchy.from_descriptors(ROWS))


def test_a_file_that_cannot_be_opened_is_not_called_damaged(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        MeshHierarchy.load(tmp_path / "none.tsv")
    with pytest.raises(IsADirectoryError):
        MeshHierarchy.load(tmp_path)


def test_genuine_records_of_nlm_load() -> None:
    """43 records of NLM's descriptor file: a subset, so most tree numbers are orphans."""
    with pytest.raises(ValueError, match="orphan tree number, its parent missing: A01.456.505, .* and 58 more"):
        MeshHierarchy.load(DATA / "descriptor_records_sample.xml.gz")
    mesh = MeshHierarchy.load(DATA / "descriptor_records_sample.xml.gz", tolerate_orphans=True)
    assert (len(mesh.uis), mesh.num_tree_numbers) == (43, 71)
    assert mesh.names[mesh.find(["D000001"])[0]].as_py() == "Calcimycin"
    # Found by an entry term, in another case.
    assert mesh.uis[mesh.find_names(["tylenol"])].tolist() == [b"D000082"]
    assert mesh.similarity("D009369", "D009369") == 1.0


CHANGES = st.lists(
    st.tuples(
        st.floats(0, 1, exclude_max=True),
        st.one_of(
            st.integers(0, 255),
            st.just("cut"),
            st.just("double"),
            st.sampled_from(
                ["\n[Term]\n", "\nid: \n", "\n[Typedef]\n", "\t", "\n", ";", "|", '"', "\\", "<b>", "</String>",
                 "&a;", "!", "{", "C1.", "\nis_a: x ! y\n",
                 "\nsynonym: \n", "\nxref: MESH_TREE_NUMBER:Z9\n", "\0", "\u0663", "\ufeff"]
            ),
        ),
    ),
    min_size=1, max_size=4,
)  # fmt: skip


@pytest.mark.parametrize("write", [xml, obo, mtrees, table, bare_table])
@given(changes=CHANGES)
@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_mutated_file_is_read_or_refused(
    tmp_path: Path, write: Callable[[Sequence[Descriptor]], str], changes: list[tuple[float, int | str]]
) -> None:
    content = write(ROWS).encode()
    for place, change in changes:
        at = int(place * len(content))
        if change == "cut":
            content = content[:at]
        elif change == "double":
            content += content[at:]
        elif isinstance(change, str):
            content = content[:at] + change.encode() + content[at:]
        elif content:
            content = content[:at] + bytes([change]) + content[at + 1 :]
    path = tmp_path / "mesh.file"
    path.write_bytes(content)
    try:
        rows = list(read_descriptors(path))
        mesh = MeshHierarchy.from_descriptors(rows, tolerate_orphans=True)
    except ValueError as error:
        assert "\n" not in str(error)
        return
    assert len(mesh.uis) == len(rows)


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (f"D1\tOne\t\tC{'.1' * 50_000}\n", "UI or tree number too long: C.1.1"),
        (f"{'D' * 1_000}\tOne\t\tC1\n", "UI or tree number too long: DDD"),
        ("format-version: 1.2\n" + "\n[Term]\nname: x\n" * 20_000, "damaged|no tree numbers"),
        (f"format-version: 1.2\n\n[Term]\nid: D1\nname: x\nxref: {'treenumber' * 20_000}\n", "no tree numbers"),
    ],
)
def test_what_would_take_for_ever_or_fill_the_memory_is_refused(tmp_path: Path, content: str, fault: str) -> None:
    (tmp_path / "mesh.file").write_text(content)
    with pytest.raises(ValueError, match=fault):
        MeshHierarchy.load(tmp_path / "mesh.file")


@pytest.mark.parametrize(
    ("head", "filler", "fault"),
    [
        (b"<DescriptorRecordSet><DescriptorRecord>", b"<a/>", "16,777,216 bytes without the end of a record"),
        (b"<DescriptorRecordSet>", b"<a/>", "16,777,216 bytes without the end of a record"),
        (b"D1\tOne\t\tC1\nD2\t", b"abcd", "line 2: more than 16,777,216 characters"),
        (b"One;C01\n", b"abcd", "line 2: more than 16,777,216 characters"),
    ],
)
def test_what_would_fill_the_memory_is_refused(tmp_path: Path, head: bytes, filler: bytes, fault: str) -> None:
    path = tmp_path / "mesh.gz"
    path.write_bytes(gzip.compress(head + filler * (15 << 20)))
    assert path.stat().st_size < 1 << 20
    script = (
        "import resource, sys; from pathlib import Path; from kailin_ray.mesh.readers import read_descriptors\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "try:\n    list(read_descriptors(Path(sys.argv[1])))\nexcept ValueError as error:\n    print(error)\n"
        "print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) >> 10)"
    )
    done = subprocess.run([sys.executable, "-c", script, path], capture_output=True, text=True, check=True)
    said, mib = done.stdout.splitlines()
    assert fault in said
    assert int(mib) < 1_000
