"""The chat for a person in a terminal: `jelly chat`. It stands on the client library, and knows nothing of the server.

app       arguments, the choice of the mode, --send
login     the name, the password, registering
screen    the full screen, on prompt_toolkit      plain    line by line, on nothing but Python
commands  what begins with a slash
session   between the client and the model        rows     lines as rows of a screen
model     conversations and their lines           texts    every sentence, in both languages
cells     characters, as wide as a terminal shows them
"""
