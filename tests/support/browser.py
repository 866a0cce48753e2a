"""
Debian's Chromium, driven by Selenium: what a page shows, what it complains of, and everything that it asks for. It
reaches nothing but the loopback: any other name resolves to nothing.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from selenium.webdriver import Chrome, ChromeOptions
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.wait import WebDriverWait

from tests.support.need import need

DESKTOP, PHONE = 1280, 390
"""Widths of windows, in CSS pixels."""
PATIENCE_S = 10.0
ARGUMENTS = (
    "--headless=new",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--ignore-certificate-errors",  # those of the tests' own authorities
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
)


class Browser:
    """One window."""

    def __init__(self, driver: Chrome) -> None:
        self.driver = driver

    def look(self, *, width: int = DESKTOP, scheme: str = "light") -> None:
        """Be as wide as this, on a system that is `light` or `dark`."""
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width == PHONE}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        media = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", media)

    def open(self, address: str) -> None:
        """Open a page, and wait until all that it needs is there."""
        self.driver.get(address)

    def run(self, script: str, *arguments: object) -> Any:
        """Run the body of a JavaScript function in the page; return what it returns."""
        return self.driver.execute_script(script, *arguments)

    def find(self, selector: str) -> WebElement:
        """Wait for an element that is shown."""
        found: WebElement = self.until(
            lambda: next((each for each in self.all(selector) if each.is_displayed()), None), selector
        )
        return found

    def all(self, selector: str) -> list[WebElement]:
        """The elements that are there now."""
        return self.driver.find_elements(By.CSS_SELECTOR, selector)

    def until(self, found: Any, what: str) -> Any:
        """Wait until *found* returns something, and return that."""
        return WebDriverWait(self.driver, PATIENCE_S, poll_frequency=0.02).until(lambda _: found(), what)

    def complaints(self) -> list[str]:
        """What the console has said since it was asked last: errors, warnings, and violations of the page's policy."""
        return [f"{each['level']}: {each['message']}" for each in self.driver.get_log("browser")]  # type: ignore[no-untyped-call]

    def requests(self) -> list[str]:
        """The addresses that were asked for since this was asked last, whether they answered or not."""
        events = [json.loads(each["message"])["message"] for each in self.driver.get_log("performance")]  # type: ignore[no-untyped-call]
        return [event["params"]["request"]["url"] for event in events if event["method"] == "Network.requestWillBeSent"]


@contextmanager
def browser() -> Iterator[Browser]:
    """Start one."""
    program, driver = shutil.which("chromium"), shutil.which("chromedriver")
    need(program and driver, "chromium and chromedriver")
    options = ChromeOptions()
    options.binary_location = str(program)
    for argument in (*ARGUMENTS, *(["--no-sandbox"] if os.geteuid() == 0 else [])):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    chrome = Chrome(options, Service(driver))
    try:
        yield Browser(chrome)
    finally:
        chrome.quit()
