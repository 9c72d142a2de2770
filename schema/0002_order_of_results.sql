alter table dbos_async.steps add column place integer, add column asked_after integer;
comment on column dbos_async.steps.place is
    'When the tasks of the run received the result: place by place. Null while a wait goes on, while one task alone calls verbs, and in rows that an older release has written.';
comment on column dbos_async.steps.asked_after is
    'The place that was released last when the step was asked for. Not above 0 when there was none yet: -3 says that the main task was in its step 3, a sleep, when a second task called its first verb. Null where one task alone calls verbs.';
