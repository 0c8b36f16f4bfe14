"""`cstor doctor`: what is wrong with a deployment, and what to do.

`gathering` asks everybody and looks at the files of this host; what it has seen is a `Picture`.
The checks are pure functions of that: a picture in, findings out.
"""
