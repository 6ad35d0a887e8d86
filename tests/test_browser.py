"""The fixture that opens pages in Chromium notices what a page does wrong."""
import pytest


@pytest.mark.parametrize('script, noticed', [
    ('console.error("bad")', 'bad'),
    ('null.x', 'null'),
    ('fetch("http://localhost:9/x").catch(() => 0)', 'request of http://localhost:9/x'),
    ('new Image().src = "http://localhost:9/y.png"', 'request of http://localhost:9/y.png'),
])
def test_trouble_is_noticed(open_page, tmp_path, script, noticed):
    (tmp_path / 'a.html').write_text(f'<title>t</title><script>{script}</script>')
    opened = open_page(tmp_path / 'a.html')
    opened.page.wait_for_timeout(50)
    assert any(noticed in line for line in opened.trouble), opened.trouble
    opened.trouble.clear()


def test_a_quiet_page_in_the_asked_window(open_page, tmp_path):
    (tmp_path / 'a.html').write_text('<title>t</title><img src="data:image/gif;base64,R0lGODlhAQABAAAAACw=">')
    opened = open_page(tmp_path / 'a.html', width=390, dark=True)
    assert opened.page.evaluate('[innerWidth, matchMedia("(prefers-color-scheme: dark)").matches]') == [390, True]
    assert opened.trouble == []
