"""`model(input_ids, attention_mask, labels=...)` in every composed model: the loss of the training, in anyone's loop."""

import copy
import inspect
from dataclasses import replace

import pytest
import torch
from composed import composed
from families import LENGTHS, batch
from test_families import every_family
from test_training_loss import a_batch
from transformers import DataCollatorForSeq2Seq, PretrainedConfig
from transformers.modeling_outputs import Seq2SeqLMOutput
from transformers.utils import find_labels

from encdec_lightning.composition.compose import compose
from encdec_lightning.composition.labels import decoder_inputs, labels_loss
from encdec_lightning.composition.tokenizers import Tokenizers
from encdec_lightning.errors import UserError
from encdec_lightning.training.loss import token_losses


@pytest.fixture(params=["decoder", "prefix"])
def gpt2(request, probe):
    """A gpt2 as GPT-2's own tokenizer has it: one token starts, ends and pads."""
    return configured(copy.deepcopy(probe(request.param, "gpt2")), start=0, end=0, pad=0)


def configured(model, start, end, pad):
    model.config = copy.deepcopy(model.config)
    model.config.decoder_start_token_id, model.config.eos_token_id, model.config.pad_token_id = start, end, pad
    return model


def as_labels(model, data, start, pad):
    """A batch of the training as arguments with labels, its targets read from `start`."""
    ids = data.target_ids.masked_fill(~data.target_mask, pad).roll(1, dims=1)
    ids[:, 0] = start
    labels = data.target_ids.masked_fill(~data.target_mask, -100)
    given = {"input_ids": data.source_ids, "attention_mask": data.source_mask, "labels": labels}
    return replace(data, decoder_input_ids=ids), given


@every_family
def test_the_loss_is_the_mean_of_the_trainings(probe, role, family):
    model = configured(copy.copy(probe(role, family)), start=0, end=2, pad=0)
    data, given = as_labels(model, a_batch(model), 0, 0)
    with torch.no_grad():
        losses, loss = token_losses(model, data), model(**given).loss
        summed = model(**given, num_items_in_batch=torch.tensor(13)).loss
    assert losses.shape == (9,)
    torch.testing.assert_close(loss, losses.mean(), rtol=1e-6, atol=0)
    torch.testing.assert_close(summed, losses.sum() / 13, rtol=1e-6, atol=0)


@pytest.mark.parametrize("pad", [0, 1, 2, 9])
def test_the_padding_token_does_not_matter(probe, pad):
    model = configured(copy.deepcopy(probe("decoder", "roberta")), start=0, end=2, pad=pad)
    data, given = as_labels(model, a_batch(model), 0, pad)
    for items, count in ((None, 9), (13, 13)):
        loss = model(**given, num_items_in_batch=items).loss
        torch.testing.assert_close(loss, token_losses(model, data).sum() / count, rtol=1e-6, atol=0)


def test_labels_padded_further_give_the_same_loss(gpt2):
    _, given = as_labels(gpt2, a_batch(gpt2), 0, 0)
    wider = {**given, "labels": torch.nn.functional.pad(given["labels"], (0, 5), value=-100)}
    torch.testing.assert_close(gpt2(**wider).loss, gpt2(**given).loss)


@pytest.mark.parametrize(("labels", "shown"), [([-100, 5, 6], r"\[-100, 5\]"), ([7, 8, -100, 9], r"\[7, 8, -100, 9\]")])
def test_labels_padded_on_the_left_are_refused_in_one_sentence(gpt2, labels, shown):
    given = {"input_ids": torch.tensor([[5, 6]] * 2), "labels": torch.tensor([[3] * len(labels), labels])}
    with pytest.raises(UserError, match=f"labels of row 1 is {shown}: -100 may stand at the end alone; pad labels on"):
        gpt2(**given)
    ids = torch.full_like(given["labels"], 4)
    expected = torch.nn.functional.cross_entropy(
        gpt2(**given | {"labels": None, "decoder_input_ids": ids}).logits.flatten(0, 1), given["labels"].flatten()
    )
    torch.testing.assert_close(gpt2(**given, decoder_input_ids=ids).loss, expected)  # whoever gives both knows


def test_decoder_inputs_and_masks_that_are_given_are_honoured(gpt2):
    ids = torch.tensor([[9, 8, 7, 6], [5, 4, 3, 2]])
    mask = torch.tensor([[0, 0, 1, 1], [1, 1, 1, 1]])
    _, given = as_labels(gpt2, a_batch(gpt2), 0, 0)
    given["labels"] = torch.tensor([[-100, -100, 6, 5], [4, 3, 2, 1]])
    both = gpt2(**given, decoder_input_ids=ids, decoder_attention_mask=mask)
    plain = gpt2(**given, decoder_input_ids=ids)
    assert torch.equal(both.logits[1], plain.logits[1]) and not torch.allclose(both.logits[0, 2:], plain.logits[0, 2:])
    ids[0, :2] = 11  # what is masked is not read
    torch.testing.assert_close(
        gpt2(**given, decoder_input_ids=ids, decoder_attention_mask=mask).logits[0, 2:], both.logits[0, 2:]
    )
    torch.testing.assert_close(both.loss, labels_loss(both.logits, given["labels"]))
    embedded = gpt2.decoder.get_input_embeddings()(ids)
    torch.testing.assert_close(
        gpt2(**given, decoder_inputs_embeds=embedded).loss, gpt2(**given, decoder_input_ids=ids).loss
    )


def test_a_prefixs_mask_covers_what_the_cache_holds(probe):
    model = probe("prefix", "gpt2")
    given = batch(model)
    ids, mask = given.pop("decoder_input_ids"), torch.ones(2, 6, dtype=torch.long)
    mask[0, :2] = 0
    whole = model(**given, decoder_input_ids=ids, decoder_attention_mask=mask).logits
    first = model(**given, decoder_input_ids=ids[:, :4], decoder_attention_mask=mask[:, :4], use_cache=True)
    second = model(
        **given, decoder_input_ids=ids[:, 4:], decoder_attention_mask=mask, past_key_values=first.past_key_values
    )
    torch.testing.assert_close(second.logits, whole[:, 4:])


def test_without_any_label_the_loss_is_zero_and_so_is_the_gradient(gpt2):
    _, given = as_labels(gpt2, a_batch(gpt2), 0, 0)
    given["labels"] = torch.full_like(given["labels"], -100)
    for more in ({}, {"num_items_in_batch": 0}, {"num_items_in_batch": torch.tensor(0)}):
        gpt2.zero_grad()
        loss = gpt2(**given, **more).loss
        loss.backward()
        assert loss.item() == 0
        assert all(each.grad is not None and not each.grad.any() for each in gpt2.parameters())


def test_outputs_are_transformers(gpt2):
    _, given = as_labels(gpt2, a_batch(gpt2), 0, 0)
    output = gpt2(**given)
    assert type(output) is Seq2SeqLMOutput and [*output][:2] == ["loss", "logits"]
    as_tuple = gpt2(**given, return_dict=False)
    assert type(as_tuple) is tuple and torch.equal(as_tuple[0], output.loss) and torch.equal(as_tuple[1], output.logits)
    gpt2.config.return_dict = False
    assert torch.equal(gpt2(**given)[0], output.loss)
    gpt2.config.return_dict = True
    del given["labels"]
    states = gpt2(**given, decoder_input_ids=torch.tensor([[4], [4]]), output_hidden_states=True).decoder_hidden_states
    assert len(states) == 3


def test_a_model_without_a_start_token_says_so(probe):
    model = configured(copy.deepcopy(probe("prefix", "gpt2")), start=None, end=0, pad=None)
    with pytest.raises(
        UserError, match=r"decoder_start_token_id is None: the model needs one, see Tokenizers\.configure"
    ):
        model(input_ids=torch.tensor([[5]]), labels=torch.tensor([[5]]))
    configured(model, start=3, end=0, pad=None)
    assert model.prepare_decoder_input_ids_from_labels(torch.tensor([[5, 6, 7, -100, -100]])).tolist() == [
        [3, 5, 6, 7, 3]
    ]


@pytest.mark.parametrize("kind", ["EncoderDecoder", "PrefixDecoder"])
def test_the_collator_of_transformers_makes_the_trainings_batch(files, kind):
    tokenizers = Tokenizers.from_pretrained(files.roberta, files.gpt2 if kind == "EncoderDecoder" else None)
    torch.manual_seed(0)
    if kind == "EncoderDecoder":
        model = composed(files, "roberta", "gpt2", tokenizers=tokenizers).eval()
    else:
        tokenizers = Tokenizers.from_pretrained(files.gpt2)
        tokenizers.source.pad_token = tokenizers.source.eos_token
        model = compose(None, files.gpt2, tokenizers=tokenizers).eval()
    sources = tokenizers.encode_sources(["merge the list", "sort"], 20)
    targets = tokenizers.encode_targets(["merge", "sort the words"], 20)
    rows = [{"input_ids": ids, "labels": labels} for ids, labels in zip(sources, targets, strict=True)]
    collated = DataCollatorForSeq2Seq(tokenizers.source, model=model)(rows)
    expected = [[tokenizers.start_id, *each[:-1]] for each in targets]
    for row, ids in zip(collated["decoder_input_ids"].tolist(), expected, strict=True):
        assert row[: len(ids)] == ids
    with_inputs = model(**collated).loss
    del collated["decoder_input_ids"]
    torch.testing.assert_close(model(**collated).loss, with_inputs)


def trainers_loop(model, batches, accumulate, learning_rate=0.05):
    """What transformers' Trainer does with a model that takes loss arguments: `num_items_in_batch`, no other division."""
    assert (
        find_labels(type(model)) == ["labels"]
        and model.accepts_loss_kwargs
        and any(each.kind == each.VAR_KEYWORD for each in inspect.signature(model.forward).parameters.values())
    )
    optimizer, reported = torch.optim.SGD(model.parameters(), learning_rate), []
    for start in range(0, len(batches), accumulate):
        group = batches[start : start + accumulate]
        items = sum(each["labels"].ne(-100).sum() for each in group)
        losses = [model(**each, num_items_in_batch=items).loss for each in group]
        for loss in losses:
            loss.backward()
        reported.append(sum(losses).item())
        optimizer.step()
        optimizer.zero_grad()
    return reported


@pytest.mark.parametrize("role", ["decoder", "prefix"])
def test_accumulation_changes_neither_loss_nor_weights(probe, role):
    model = configured(copy.deepcopy(probe(role, "gpt2")), start=0, end=0, pad=0).double()
    twin = copy.deepcopy(model)
    draw = torch.Generator().manual_seed(3)
    rows = [
        {
            "input_ids": torch.randint(5, 100, (1, LENGTHS[0]), generator=draw),
            "attention_mask": torch.ones(1, LENGTHS[0], dtype=torch.long),
            "labels": torch.randint(5, 100, (1, 8), generator=draw).where(torch.arange(8) < length, -100),
        }
        for length in (8, 2, 5, 1, 3, 8, 1, 4)
    ]
    fours = [{name: torch.cat([row[name] for row in rows[at : at + 4]]) for name in rows[0]} for at in (0, 4)]
    whole, parts = trainers_loop(model, fours, 1), trainers_loop(twin, rows, 4)
    assert whole == pytest.approx(parts, rel=1e-10)
    assert whole[0] == pytest.approx(token_mean(probe, role, fours[0]).item(), rel=1e-5)
    for ours, theirs in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12)


def token_mean(probe, role, given):
    """The mean over real labels, from the logits of each row alone, without padding."""
    model, losses = probe(role, "gpt2"), []
    for ids, labels in zip(given["input_ids"], given["labels"], strict=True):
        real = labels[labels != -100]
        read = torch.cat([real.new_zeros(1), real[:-1]])
        logits = model(input_ids=ids[None], decoder_input_ids=read[None]).logits[0]
        losses.append(torch.nn.functional.cross_entropy(logits, real, reduction="none"))
    return torch.cat(losses).mean()


def test_a_padding_token_below_zero_is_none():
    """As configs of older llamas have it; padding is then read as the start token."""
    labels = torch.tensor([[5, 6, -100], [7, 8, 9]])
    below, none = (PretrainedConfig(decoder_start_token_id=2, pad_token_id=pad) for pad in (-1, None))
    assert torch.equal(decoder_inputs(labels, below), decoder_inputs(labels, none))
