"""What each kind of job is told, as types; a module for each family of jobs.

A job's code hash reaches the module of its own specification alone, so that a new setting of one
kind of job makes no other run again.
"""
