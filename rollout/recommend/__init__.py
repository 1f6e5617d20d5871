"""The recommend endpoint: users' requests -> lists of items, by the generation engine that rollouts use.

`service` decides how a request is answered; `shedding` says when there is no time to generate, and `pools` holds what is
served then; `arms` splits users between the arms of an experiment, `degradation` measures what load costs each; `batches`
groups requests; `recommender` makes lists; `selection` has the reward model put them in order;
`sessions` follows the stream for users' histories; `app` is the HTTP surface.
"""
