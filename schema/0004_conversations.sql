alter table dbos_async.messages add column answer json, add column answer_error json, add column answered_at timestamptz;
comment on column dbos_async.messages.answer is
    'What the receiver has answered to a question; null in other messages, and in questions without an answer.';
comment on column dbos_async.messages.answer_error is
    'The error that the one who asked gets instead of an answer: the receiver has refused.';
comment on column dbos_async.messages.answered_at is
    'When the answer or the refusal was stored. The first one counts.';
alter table dbos_async.messages add column copy_of uuid;
comment on column dbos_async.messages.copy_of is
    'The message of the same queue that redeliver has copied here. Whoever asked it waits for an answer to that one.';
