"""The node worker's messages as TypeScript: current, and each with a type of its own."""

from unit.browser.generated import current_text, each_of_its_own_type

from kwaainet.browser import node_messages


def test_the_generated_file_is_current_and_imports_what_others_declare() -> None:
    text = current_text(node_messages)
    assert "Stopped } from './messages.ts'" in text
    assert "interface Stopped" not in text


def test_every_message_names_its_type_once() -> None:
    each_of_its_own_type(node_messages.PageToNode, node_messages.NodeToPage)
