"""Studies of classifiers and of their maps: each trains or loads runs, measures, and writes what it found.

``audit`` asks what runs looked at, ``compare`` puts models and CAM methods into one table, ``ensembles`` joins runs
into one, and ``demo`` shows the whole chain on the sample data, which ``samples`` draws. ``material`` holds what they
rest on, ``settings`` what they are told; nothing else in the package imports them but the command line.
"""
