"""`jelly chat`, the chat for a person in a terminal. It uses the client library only.

app       arguments, choice of the user interface, --send
login     the login dialog: name, password, registration
screen    the full-screen user interface, on prompt_toolkit
plain     the plain user interface, line by line, on the standard library only
commands  the slash commands and their completion
session   the controller between the client and the model
rows      the layout of lines as rows of a screen
model     conversations and their lines
texts     every sentence, in both languages
cells     sanitized text, measured in terminal cells
"""
