import io
import re

from PIL import Image
import pytest

from harmopower.data.inspecting import cards, page
from tests.data.inspecting import browser, common

EVIL = "<script>window.hacked = 1</script> & \"quotes\" 'and' <img src=x onerror=alert(1)>"


@pytest.fixture(scope="module")
def tokenizer():
    return common.tokenizer()


def examples():
    regions = [common.region(words="a red sofa"), common.region((0.5, 0.7, 0.9, 0.9), words="a dog")]
    yield common.example(phrases=common.tree(), regions=regions)
    yield common.example(
        f"evil {EVIL}",
        [EVIL],
        phrases=[{"caption": 0, "start": 0, "end": 20, "label": EVIL}],
        regions=[common.region(label=EVIL, text=EVIL)],
    )
    yield common.example("broken", [""], image=b"no image")


@pytest.fixture(scope="module")
def html(tokenizer):
    return page.render(
        (cards.of_example(found, tokenizer, 77) for found in examples()), f"title {EVIL}", [(EVIL, EVIL)]
    )


def test_text_of_the_data_is_never_markup(html):
    assert html.count("<script") == 1 and "<img" not in html
    assert "&lt;script&gt;" in html and "onerror=alert(1)&gt;" in html


def test_the_page_needs_nothing_from_elsewhere(html):
    links = re.findall(r"(?:src|href)\s*=\s*[\"']([^\"']*)|url\(([^)]*)\)|@import", html)
    assert links and all(link.startswith("data:image/jpeg;base64,") for link, _ in links)


def test_a_page_of_200_examples_is_below_10_mb(tokenizer):
    caption = " ".join(f"word{number} of" for number in range(40))
    words = [match.span() for match in re.finditer(r"\S+", caption)]
    phrases = [{"caption": 0, "start": s, "end": words[-1][1], "label": "NP"} for s, _ in words[:30]]
    regions = [common.region((0.01 * i, 0, 1, 1), words=f"word{i} of", caption=caption) for i in range(20)]
    # Noise, which JPEG cannot make small: no photograph is worse.
    worst = common.example(captions=[caption], phrases=phrases, regions=regions, image=common.picture((640, 480)))
    card = cards.of_example(worst, tokenizer, 77)
    assert len(page.render([card] * 200, "many").encode()) < 10e6


def test_kinds_are_counted_and_offered(html):
    assert "all 3" in html and "bad record 1" in html and "a region without a span 1" in html
    assert html.count('data-kinds="bad"') == 1


@pytest.mark.slow
@pytest.mark.skipif(not browser.PROGRAM, reason="no chromium on this machine: apt-get install chromium")
def test_a_real_browser_lights_up_the_box_of_the_words_under_the_mouse(html, tmp_path):
    (tmp_path / "page.html").write_text(html, encoding="utf-8")
    with browser.opened(tmp_path / "profile") as shown:
        shown.open(tmp_path / "page.html")
        assert shown.run("typeof window.hacked") == "undefined"
        word = "Array.from(document.querySelectorAll('.piece')).find(p => p.textContent === 'sofa')"
        key = shown.run(f"{word}.dataset.keys.split('|')[0]")
        style = f"getComputedStyle(document.querySelector('rect[data-keys=\"{key}\"]'))"
        other = f"getComputedStyle(document.querySelector('rect:not([data-keys=\"{key}\"])'))"
        before = [shown.run(f"{style}.{name}") for name in ("strokeWidth", "fillOpacity", "stroke")]
        shown.move_mouse(*shown.place(word))
        lit = [shown.run(f"{style}.{name}") for name in ("strokeWidth", "fillOpacity", "stroke")]
        assert before[:2] == ["2px", "0.06"] and lit[:2] == ["5px", "0.34"] and lit[2] == before[2]
        assert shown.run(f"{other}.strokeWidth") == "2px"
        assert shown.run(f"getComputedStyle({word}).borderBottomColor") == lit[2]  # one colour
        picture = Image.open(io.BytesIO(shown.screenshot()))
        assert picture.size[0] == 1300 and len(picture.convert("RGB").getcolors(1 << 24)) > 100
        rect = f"document.querySelector('rect[data-keys=\"{key}\"]')"
        shown.move_mouse(1, 1)
        assert shown.run(f"{style}.strokeWidth") == "2px"
        shown.move_mouse(*shown.place(rect))
        assert shown.run(f"{word}.classList.contains('lit')")
        shown.click(*shown.place("document.querySelector('button[data-kind=bad]')"))
        visible = "Array.from(document.querySelectorAll('article')).filter(a => a.offsetParent).length"
        assert shown.run(visible) == 1
        assert not shown.errors
        assert all(url.startswith(("file:", "data:")) for url in shown.requests)
