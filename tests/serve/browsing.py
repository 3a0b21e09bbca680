"""The page of `shopframe serve`, opened in a real browser."""

from __future__ import annotations

from playwright.sync_api import Browser, Page, expect

from tests.serve.served import Client

# A busy machine takes longer than the default of 5 s.
expect.set_options(timeout=20_000)

SIZES = {"wide": (1440, 900), "phone": (390, 844)}
_FAILED_REQUEST = "Failed to load resource"


def opened(
    browser: Browser, client: Client, size: str = "wide", scheme: str = "light", count: int = 18, **options
) -> Page:
    """Open the page, and collect the errors in the browser's console in `page.errors`."""
    width, height = SIZES[size]
    context = browser.new_context(
        viewport={"width": width, "height": height}, color_scheme=scheme, reduced_motion="reduce", **options
    )
    page = context.new_page()
    page.set_default_timeout(20_000)
    page.errors = []
    page.on(
        "console",
        lambda message: (
            page.errors.append(f"{message.text} {message.location}") if message.type == "error" else None
        ),
    )
    page.on("pageerror", lambda error: page.errors.append(str(error)))
    page.goto(client.address)
    expect(page.locator("#wall-title")).to_have_text(f"{count} persons")
    if size == "wide":
        expect(page.locator("#charts .chart").first).to_be_visible()
    return page


def refused(page: Page) -> list[str]:
    """The requests that have failed, which the browser's console notes and a test may expect."""
    found = [error for error in page.errors if error.startswith(_FAILED_REQUEST)]
    page.errors = [error for error in page.errors if error not in found]
    return found


def open_person(page: Page, number: int) -> None:
    page.locator(f'#wall [data-id="{number}"] .open').click()
    expect(page.locator("#person-title")).to_have_text(f"Person {number}")


def drag_a_box(page: Page, start: tuple[float, float], end: tuple[float, float]) -> None:
    """Drag from one place of the frame to another, in shares of its width and height."""
    # Not wait_for_function: it evaluates text in the page, whose policy forbids that.
    expect(page.locator(".frame img")).to_have_js_property("naturalWidth", 2000)
    page.locator(".frame").scroll_into_view_if_needed()
    area = page.locator(".layer").bounding_box()
    page.mouse.move(area["x"] + area["width"] * start[0], area["y"] + area["height"] * start[1])
    page.mouse.down()
    page.mouse.move(area["x"] + area["width"] * end[0], area["y"] + area["height"] * end[1])
    page.mouse.up()
