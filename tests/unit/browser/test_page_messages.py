"""The messages to a page's Python as TypeScript: current, and each with a type of its own."""

from unit.browser.generated import current_text, each_of_its_own_type

from kwaainet.browser import page_messages


def test_the_generated_file_is_current() -> None:
    current_text(page_messages)


def test_every_message_names_its_type_once() -> None:
    each_of_its_own_type(page_messages.PythonToSdk, page_messages.SdkToPython)
