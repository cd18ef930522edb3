"""Texts of the page, in one place, so that a translation is one mapping of the same keys."""

from __future__ import annotations

from collections.abc import Mapping

from noria.core.errors import ConfigError

ENGLISH: Mapping[str, str] = {
    # the frame
    "skip": "Skip to the message box",
    "new": "New conversation",
    "conversations": "Conversations",
    "conversation": "Conversation",
    "all": "All conversations",
    "none": "No conversation yet.",
    "account": "Account",
    "data": "Your data",
    "guest": "Guest",
    "back": "Back to the conversation",
    "menu": "Menu",
    "own_tab": "Open in a tab of its own",
    # the message box
    "message": "Your message",
    "placeholder": "Ask, or add a picture …",
    "placeholder_more": "Reply …",
    "send": "Send",
    "stop": "Stop",
    "add": "Add a picture",
    "camera": "Take a photo",
    "drop": "Drop the picture anywhere",
    "remove": "Remove the picture",
    "about": "About this picture",
    "without": "Not about this picture",
    "use": "Use this picture",
    "keys": "Enter sends, Shift and Enter starts a new line.",
    "too_large": "This picture is larger than {most} MB. Choose a smaller one.",
    "wrong_kind": "This is no picture that can be taken: choose a PNG, JPEG, WebP or GIF file.",
    "picture_no": "The picture could not be taken: {why}.",
    "suggestions": "Suggestions",
    # turns
    "you": "You said",
    "said": "{title} said",
    "your_picture": "Picture you sent",
    "its_picture": "Picture of the answer",
    "waiting": "You are number {place} in the queue. Keep this page open, or come back to it: your place stays yours.",
    "next": "You are next.",
    "thinking": "Thinking …",
    "writing": "Writing …",
    "doing_edit": "Editing your picture …",
    "doing_generate": "Making a picture …",
    "doing_search": "Searching …",
    "doing_try_on": "Trying it on …",
    "doing_report": "Writing your report …",
    "doing_other": "Using {name} …",
    "done_edit": "Edited your picture",
    "done_generate": "Made a picture",
    "done_search": "Searched",
    "done_try_on": "Tried it on",
    "done_report": "Wrote a report",
    "done_other": "Used {name}",
    "step_failed": "did not work",
    "step_share": "How far it is",
    "no_script": "This page looks again by itself every two seconds.",
    "announce_working": "{title} is answering.",
    "announce_done": "The answer is complete.",
    "stopped": "You stopped this answer.",
    "failed": "No answer came. {why}",
    "why_busy": "Too many people are asking just now.",
    "why_timeout": "It took too long.",
    "why_other": "Something went wrong on our side, and it was noted.",
    "why_budget": "The budget of today is spent. It is filled up again at midnight (UTC).",
    "refused": "It declined to answer this.",
    "wordless": "No words came back. Please ask again, or in other words.",
    "again": "Try again",
    "how": "How this answer came about",
    "seconds": "{seconds} s",
    "skill": "Skill",
    # what tools show
    "before": "Before",
    "after": "After",
    "slider": "How much of the picture before is shown, in percent",
    "edited": "Your edit",
    "asked": "Asked for",
    "plan": "Plan",
    "made": "Picture",
    "video": "Video",
    "report": "Report",
    "open_report": "Open the report",
    "preview": "Preview of the report",
    "products": "Products",
    "why": "Why this?",
    "available": "In stock",
    "unavailable": "Sold out",
    "no_price": "Price on request",
    "no_image": "No picture",
    "gone": "This picture is no longer kept.",
    "download": "Download",
    "unknown": "This answer has something that this page cannot show.",
    # feedback
    "feedback": "What do you think?",
    "up": "Good",
    "down": "Bad",
    "up_what": "Good: {what}",
    "down_what": "Bad: {what}",
    "this_answer": "this answer",
    "better": "What should it have been?",
    "better_what": "What should {what} have been?",
    "better_text": "In your words",
    "better_skill": "What kind of answer did you want?",
    "skill_same": "The kind was right",
    "skill_none": "None of these",
    "give": "Send",
    "taken_back": "Taken back.",
    "thanks": "Thank you: it is kept, and what learns from it is checked first.",
    "you_said": "You said it should have been:",
    "take_back": "Take back",
    "choose": "Two answers: which one is better?",
    "answer_n": "Answer {n}",
    "this_one": "This one is better",
    "chosen": "You chose this one",
    "not_chosen": "The other one was better",
    # conversations
    "untitled": "A picture",
    "title": "Title",
    "rename": "Rename",
    "save": "Save",
    "delete": "Delete",
    "delete_sure": "Delete this conversation with its pictures, for good",
    "deleted": "The conversation is deleted: {records} records, with the pictures that nothing else shows.",
    "full": "This conversation is full. Start a new one.",
    # accounts
    "sign_in": "Sign in",
    "sign_up": "Make an account",
    "sign_out": "Sign out",
    "signed_in": "Signed in as {name}.",
    "signed_out": "You are signed out.",
    "name": "Name",
    "passphrase": "Passphrase",
    "passphrase_new": "New passphrase",
    "passphrase_now": "Present passphrase",
    "passphrase_rule": "At least 12 characters; a few words are easy to keep. Nobody can send you a new one.",
    "passphrase_changed": "The passphrase is changed, and every other browser is signed out.",
    "change": "Change the passphrase",
    "guest_note": "You are a guest: this browser alone knows your conversations, "
    "for {days} days after your last visit.",
    "account_note": "With an account you find them from any browser. What you asked so far goes with you.",
    "sign_in_note": "What you asked as a guest stays with this browser, and is there again once you sign out.",
    "bad_sign_in": "There is no account with this name and passphrase.",
    "bad_name": "A name has 3 to 40 letters, digits, dots, dashes or underscores.",
    "bad_passphrase": "A passphrase has 12 to 200 characters.",
    "name_taken": "This name is taken. Choose another one.",
    "too_often": "Too often. Try again in {seconds} seconds.",
    # data
    "data_what": "What is kept",
    "data_text": "Your messages and the answers, with mail addresses, numbers of phones, cards and accounts taken "
    "out first; your pictures without the camera's notes, {pictures}; what you said of answers. "
    "Under a key instead of your name.",
    "pictures_days": "for {days} days",
    "pictures_ever": "until you delete them",
    "data_count": "Conversations: {conversations}. Messages: {messages}.",
    "export": "Download everything",
    "export_note": "One JSON file with every conversation, picture and feedback of yours.",
    "erase": "Delete everything",
    "erase_note": "Removes all of it for good, pictures included: conversations, feedback, and your account if you "
    "have one. Backups that the operator made before are beyond its reach.",
    "erase_sure": "I want all of it deleted.",
    "erase_tick": "Tick the box first: nothing was deleted.",
    "erased": "Everything is deleted: {traces} messages with {records} records, your pictures among them. "
    "You are a new guest now.",
    # errors
    "error": "Something is wrong",
    "lost": "There is nothing here, or it belongs to somebody else.",
    "stale": "This page was open for too long, or your browser does not keep its cookie. Nothing was done: "
    "please try again.",
    "empty": "Write something, or add a picture.",
    "long": "A message has at most {most} characters.",
    "busy": "Very many people are asking, and the queue is full. Nothing was sent: please try again in a minute.",
    "one_at_a_time": "Your last message is still being answered.",
    "unable": "This cannot be done just now. The reason was noted; please try again in a moment.",
    "off": "The page is off here. An operator turns it on by page.on in the configuration.",
    "request_large": "This is too large: a picture has at most {most} MB.",
}  # fmt: skip
RIGHT_TO_LEFT = ("ar", "dv", "fa", "he", "ks", "ku", "ps", "sd", "ug", "ur", "yi")
"""Languages that are written from right to left."""


def read_texts(changes: Mapping[str, str]) -> dict[str, str]:
    """The texts with those of the configuration in their places.

    Raises:
        ConfigError: there is no text of this key, or one has a place that the English text lacks.
    """
    for key, text in changes.items():
        where = f"page.texts.{key}"
        if key not in ENGLISH:
            raise ConfigError("there is no such text", where=where, mend="see noria.assistant.web.texts")
        try:
            text.format_map(_Places(ENGLISH[key]))
        except (KeyError, ValueError, IndexError) as error:
            raise ConfigError(f"a place that is not filled: {error}", where=where) from None
    return {**ENGLISH, **changes}


class _Places(dict[str, str]):
    """The places of a text, each filled with nothing."""

    def __init__(self, text: str) -> None:
        import string

        super().__init__({name: "" for _, name, _, _ in string.Formatter().parse(text) if name})


def direction(language: str) -> str:
    """Direction in which a language is written."""
    return "rtl" if language.partition("-")[0] in RIGHT_TO_LEFT else "ltr"
