"""`jelly chat`, the chat for a person in a terminal. It uses the client library only.

app         choice of the user interface, --send
arguments   what stands on the command line
settings    the file with the user's settings
login       the login dialog: name, password, registration
screen      the full-screen user interface, on prompt_toolkit
plain       the plain user interface, line by line, on the standard library only
commands    the slash commands and their completion; what they do is in
            conversation_commands, people_commands, group_commands and account_commands
command     what commands have in common
session     between the client and the model, with controller, outbox, history_loader and
            server_events
kept        the file with drafts and messages that are not confirmed
line_input  lines of the input, for which the wait can be ended
output      what is written, if that fails
notify_command the command of --notify
log_file    the file of /log
job_queue   from the client's thread to that of the user interface
rows        the layout of lines as rows of a screen
model       conversations and their lines
translator  sentences in the user's language
texts       every sentence, in both languages; error_texts, help_texts and start_texts, too
language    a text in both languages
normal_form names and passwords in one form, whichever way they are typed
cells       sanitized text, measured in terminal cells
"""
